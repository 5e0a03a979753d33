"""RunPod's Hub looks for a file of this name. The image starts `python -m pennyreel_worker`."""

# ruff: noqa: INP001 - a program, not a package

from pennyreel_worker.lifecycle import run

if __name__ == "__main__":
    run()
