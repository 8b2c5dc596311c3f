"""Codes of runs that are handed to a cluster as Ray jobs."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

JOBS = {
    "WRPO-J001": Entry(
        "the run has a job already",
        "A job of the same run is under way on this cluster, or was submitted at the same moment.",
        "Follow that job with `ray job logs --follow ID`, or end it with `ray job stop ID` and submit again.",
    ),
    "WRPO-J002": Entry(
        "the job would not find a file",
        "A job gets a copy of its working directory and nothing else of the machine that submits it. jobs/fuse.py or "
        "the config lies elsewhere.",
        "Name with --working-dir the folder that holds both.",
    ),
    "WRPO-J003": Entry(
        "the results of a job would be lost",
        "run.root is a relative path. In a job it lies in the job's copy of the working directory, on one node.",
        "Set run.root to s3://bucket/prefix, gs://bucket/prefix, or a path that every node sees.",
    ),
    "WRPO-J004": Entry(
        "no cluster takes the job",
        "Nothing answers at the address, what answers is no Ray cluster of this version, or it refuses the token.",
        "Name the cluster's dashboard with --address or RAY_API_SERVER_ADDRESS, and its token with "
        "RAY_AUTH_TOKEN_PATH.",
    ),
    "WRPO-J005": Entry(
        "the job is no longer followed",
        "Ctrl-C ended the command that showed the job's log. The job goes on.",
        "`ray job logs --follow ID` shows it again, `ray job stop ID` ends it.",
    ),
    "WRPO-J006": Entry(
        "the cluster was lost sight of",
        "It has not answered for two minutes. The job may go on, or have ended with its cluster.",
        "Look at the cluster; when it is gone, submit the run again: it goes on from what was stored.",
    ),
}
