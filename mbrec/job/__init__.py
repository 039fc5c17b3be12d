"""Configuration -> a job: the objects of a run, its folder, its status, and how it resumes."""
