"""The paper in miniature: ten skills, ten small sources that know some of them, a target that knows little."""
