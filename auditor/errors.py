"""What goes wrong with a model, said in one sentence."""


class UnsupportedModel(ValueError):
    """The model cannot be explained as asked: no head was found, or an operation has no rule."""


class RefusedImages(UnsupportedModel):
    """The model itself raises on images of this shape, or on so many."""
