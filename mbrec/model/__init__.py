"""The ranking model: a shared bottom, the balancing hook, and one head per task."""
