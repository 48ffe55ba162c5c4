"""Attacks: prompts that make an unlearned or guarded model generate the concept after all. See `docs/attacks.md`."""
