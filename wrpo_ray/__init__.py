"""wrpo_ray: fuse many language models into one, on Ray (WRPO, arXiv 2412.03187)."""

__version__ = "0.1.0"
