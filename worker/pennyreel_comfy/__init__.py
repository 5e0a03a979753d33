"""Speaks ComfyUI."""
