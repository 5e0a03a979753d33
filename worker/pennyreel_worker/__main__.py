"""`python -m pennyreel_worker`: the image's entry point."""

from pennyreel_worker.lifecycle import run

if __name__ == "__main__":
    run()
