"""Recipes: YAML files to frozen, validated objects."""

from sedd_cli.recipe.load import dump_recipe, load_recipe, recipe_from, shipped
from sedd_cli.recipe.recipe import Recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe", "recipe_from", "shipped"]
