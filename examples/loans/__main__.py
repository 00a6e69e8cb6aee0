"""Command `python -m examples.loans`."""

from examples.loans.releases import MOD_LOANS
from examples.loans.routes import Loans
from examples.service import main

if __name__ == "__main__":
    main(MOD_LOANS, Loans)
