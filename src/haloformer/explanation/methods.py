"""Names of the methods of explanation."""

METHODS = ("attention", "rollout", "gradcam", "integrated_gradients")

OF_GRADIENTS = ("gradcam", "integrated_gradients")
"""Those that need captum."""

DEPTH = "depth"
"""What A-ViT adds: through how many blocks the token at a place went."""
