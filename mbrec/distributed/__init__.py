"""The processes of a job: the group, lockstep, failures, placement of the tables."""
