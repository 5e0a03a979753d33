"""Parts of `bench/worker.py`; bench/README.md says what each figure is and how it is measured."""
