"""Command `python -m examples.users`."""

from examples.service import main
from examples.users.releases import MOD_USERS
from examples.users.routes import Users

if __name__ == "__main__":
    main(MOD_USERS, Users)
