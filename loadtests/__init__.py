"""Load tests: simulated shoppers, and the proof that their run left everything right. README.md says what is where."""
