"""A node pack that does what /object_info does not tell. For ComfyUI's custom_nodes, not for us."""

# ruff: noqa: ARG003, N801, N802 - classes, methods and arguments are called as in packs

from comfy_api.latest import io


class Any_(str):
    """A type that equals any: the trick of most packs."""

    __slots__ = ()

    def __ne__(self, other):
        return False


class Everything(dict):
    """Optional inputs by any name."""

    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return (Any_("*"), {})


class _Node:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "strange"

    def run(self, **inputs):
        return (inputs,)


class TakesAnything(_Node):
    RETURN_TYPES = (Any_("*"), Any_("STRANGE"))

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"one": (Any_("ODD"), {})}, "optional": Everything()}


class JudgesByItself(_Node):
    @classmethod
    def INPUT_TYPES(cls):
        number = ("INT", {"min": 0, "max": 4})
        return {"required": {"count": number, "pick": (["a", "b"], {}), "other": number}}

    @classmethod
    def VALIDATE_INPUTS(cls, count, pick):
        return True


class JudgesAll(_Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"max": 4}), "pick": (["a", "b"], {})}}

    @classmethod
    def VALIDATE_INPUTS(cls, **inputs):
        return True


class JudgesTypes(_Node):
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("LATENT", {}), "count": ("INT,FLOAT", {"max": 4})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True


class Lazy(_Node):
    @classmethod
    def INPUT_TYPES(cls):
        image = ("IMAGE", {"lazy": True})
        return {"required": {"on": ("BOOLEAN", {}), "yes": image}, "optional": {"no": image}}


class NewStyle(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        template = io.MatchType.Template("t", [io.Image, io.Mask])
        number = io.Float.Input("number", min=0.0, max=1.0)
        return io.Schema(
            node_id="NewStyle",
            inputs=[
                io.Combo.Input("pick", options=["a", "b"]),
                io.MultiType.Input(number, types=[io.Int]),
                io.MatchType.Input("same", template=template, optional=True),
                io.MultiCombo.Input("several", options=["a", "b"], optional=True),
            ],
            outputs=[io.Image.Output("image"), io.MatchType.Output("out", template=template)],
        )

    @classmethod
    def execute(cls, **inputs):
        return io.NodeOutput(None, None)


NODE_CLASS_MAPPINGS = {
    one.__name__: one
    for one in (TakesAnything, JudgesByItself, JudgesAll, JudgesTypes, Lazy, NewStyle)
}
