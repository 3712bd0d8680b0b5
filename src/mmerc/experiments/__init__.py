"""Many runs: their plan, their execution, their tables."""
