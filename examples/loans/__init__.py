"""`mod-loans`: who has borrowed what. It asks mod-users, through the gateway, whether the user exists."""
