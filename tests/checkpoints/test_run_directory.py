"""The folders of runs by their names."""

from __future__ import annotations

from sedd_cli.checkpoints.run_directory import near


def test_a_misspelt_folder_is_answered_by_its_own_name_and_not_by_the_path_that_all_share(tmp_path):
    (tmp_path / "stories").mkdir()
    assert near(tmp_path / "storys") == f"; did you mean {str(tmp_path / 'stories')!r}?"
    assert near(tmp_path / "0123") == near(tmp_path / "none" / "a") == ""
