"""The worker's models: its own folders, RunPod's volumes, and what jobs ask for by URL."""

from __future__ import annotations

from pathlib import Path

from pennyreel_comfy.models import VOLUMES, Hosts, JobModels, Root, find_roots, load, paths_yaml
from pennyreel_worker.settings import Settings


class Models:
    """Where models are, and the file that tells ComfyUI so."""

    def __init__(self, settings: Settings, own: Path | None, work: Path) -> None:
        """Look for volumes; nothing is written yet.

        Args:
            settings: more folders, lists of models, hosts, limits and tokens.
            own: ComfyUI's own folder of models; None where it is not known.
            work: this process's folder, which ends with it.

        Raises:
            SetupNeeded: `not_configured`: a list of models cannot be read.

        """
        baked = [Root(own)] if own is not None else []
        self.roots = [*baked, *find_roots([*settings.model_roots, *VOLUMES])]
        self.jobs = JobModels(
            settings.model_dir or work / "models",
            hosts=Hosts(
                [*settings.model_hosts, *settings.allow_hosts],
                hf_token=settings.hf_token,
                civitai_token=settings.civitai_token,
            ),
            most=settings.model_max_bytes,
            disk_bytes=settings.model_disk_bytes,
            roots=self.roots,
            manifest=load(settings.model_lists),
        )
        self._config = work / "models.yaml"

    def options(self) -> tuple[str, ...]:
        """Write ComfyUI's file of model folders; returns the options that name it."""
        self._config.write_text(paths_yaml([*self.roots, self.jobs.root]), "utf-8")
        return "--extra-model-paths-config", str(self._config)
