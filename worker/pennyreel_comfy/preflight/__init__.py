"""What can be known of a graph before ComfyUI sees it. Pure: no input or output, no clock.

`check` finds what is wrong, all at once; `refused_nodes` what an untrusted graph may not do;
`paid_nodes` what costs money; `refusal` makes an error of findings. docs/preflight.md says which
findings refuse a graph and which only warn.
"""

from pennyreel_comfy.preflight.catalogue import NodeCatalogue
from pennyreel_comfy.preflight.checking import check
from pennyreel_comfy.preflight.finding import Finding, refusal, sentences
from pennyreel_comfy.preflight.policy import paid_nodes, refused_nodes

__all__ = [
    "Finding",
    "NodeCatalogue",
    "check",
    "paid_nodes",
    "refusal",
    "refused_nodes",
    "sentences",
]
