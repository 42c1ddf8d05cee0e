"""A model as a folder that travels: safetensors, manifest, recipe and a model card of what was measured."""
