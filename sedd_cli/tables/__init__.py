"""The paper's tables: what of them exists, and what is to be done for the rest."""
