"""What a cluster is told to bring a run up: manifests for KubeRay, files for Anyscale, all from the run's config."""
