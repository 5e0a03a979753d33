"""What a job needs on this machine, what of it is missing, and how it gets there.

Reading order: `wanted` (what a template or workflow requires, and where it can be had), `disk`
(what an installed ComfyUI has), `running` (what one that runs says), `plan` (what is missing, with
sizes, licences and minutes), `words` (that for a person and for a program), `offer` (the same in a
line), `stock` (which backend lacks what, for the survey), `perform` (does it). `here` is which
folder and which lists of models are meant. docs/setup.md is for users.
"""
