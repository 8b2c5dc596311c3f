"""Codes of `wrpo-ray cluster`."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

CLUSTERS = {
    "WRPO-C140": Entry(
        "the config does not say which cluster it is for",
        "Manifests name a container image; without the section `cluster` and its `image` there is none. The tag "
        "`latest` is another image tomorrow.",
        "Add cluster.image, by digest or with a tag other than latest; docs/clusters.md begins with an example.",
    ),
    "WRPO-C141": Entry(
        "the nodes of a type cannot be described",
        "A group of nodes needs CPUs, memory and GPUs of one node, known from the cloud's machine type or from "
        "cluster.nodes, and counts that fit together.",
        "Make the change that the message names.",
    ),
    "WRPO-C142": Entry(
        "a section asks for more than the planned nodes can ever hold",
        "Each replica of an engine and each training worker must fit on one node (or on num_nodes of them); training "
        "takes all of its workers at once.",
        "Lower the section's resources, or enlarge planning.cluster or cluster.nodes.",
    ),
    "WRPO-C143": Entry(
        "a path would not be seen by all nodes",
        "Pods share object storage, the Hugging Face hub, the image (cluster.shared_paths) and volumes mounted "
        "on all of them (cluster.kuberay.volumes), nothing else. A run resumes on a new cluster only from there.",
        "Use s3://bucket/prefix or gs://bucket/prefix, or name the folder in cluster.shared_paths if it is part of the "
        "image.",
    ),
    "WRPO-C144": Entry(
        "a setting of the cluster cannot be rendered",
        "Manifests with it would be refused by Kubernetes, KubeRay, Kueue or Anyscale, would not work, or would give "
        "away a secret.",
        "Make the change that the message names.",
    ),
    "WRPO-C145": Entry(
        "the file that is laid over the config cannot be used",
        "--with takes a YAML file of sections, like the config itself; lists are replaced as a whole.",
        "Correct the file; cluster/sites has examples.",
    ),
}
