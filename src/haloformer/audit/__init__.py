"""How far a trained model can be trusted, measured part by part."""
