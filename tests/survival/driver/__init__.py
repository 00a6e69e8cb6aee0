"""A seeded random driver: it does and kills anything in any order on a real stack, and everything stays true (D2, D3)."""
