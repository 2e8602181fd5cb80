"""Recipes: YAML files to frozen, validated objects."""

from sedd_cli.recipe.load import differences, dump_recipe, load_recipe, recipe_from, shipped
from sedd_cli.recipe.recipe import Recipe

__all__ = ["Recipe", "differences", "dump_recipe", "load_recipe", "recipe_from", "shipped"]
