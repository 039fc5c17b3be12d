"""Files written whole or not at all, and sealed with a digest where they are read back."""
