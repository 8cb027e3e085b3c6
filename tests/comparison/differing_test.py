import tensorflow as tf

from zoo.comparison import differing


class DifferingTest(tf.test.TestCase):
    def test_a_recipe_is_named_by_what_its_method_has_in_two_ways(self):
        recipes = [
            {
                "method": "csra",
                "heads": 1,
                "epochs": 3,
                "data_sha256": "a" * 64,
            },
            {
                "method": "csra",
                "heads": 4,
                "epochs": 3,
                "data_sha256": "b" * 64,
            },
            {"method": "gap", "epochs": 9, "data_sha256": "a" * 64},
        ]
        heads, more, gap = differing.settings(recipes)
        self.assertEqual(
            (heads, more, gap), ({"heads": "heads=1"}, {"heads": "heads=4"}, {})
        )

    def test_a_digest_is_named_where_nothing_else_differs(self):
        found = differing.settings(
            [{"method": "gap", "data_sha256": digit * 64} for digit in "ab"]
        )
        self.assertEqual(
            [list(settings.values()) for settings in found],
            [["data_sha256=aaaaaaaa"], ["data_sha256=bbbbbbbb"]],
        )

    def test_a_field_that_is_new_names_those_that_have_it(self):
        old, new = {"method": "gap"}, {"method": "gap", "loss": "focal"}
        self.assertEqual(
            differing.settings([old, new]), [{}, {"loss": "loss=focal"}]
        )

    def test_notes_what_names_do_not_say(self):
        recipes = [
            {"method": "csra", "heads": 1, "epochs": 3, "pooling": "both"},
            {"method": "csra", "heads": 4, "epochs": 3, "pooling": "both"},
            {"method": "gap", "epochs": 9, "pooling": "avg"},
        ]
        named = differing.settings(recipes)
        self.assertEqual(
            differing.between_methods(recipes, named),
            ["epochs differs: 3 (csra); 9 (gap)"],
        )

    def test_what_all_names_say_is_not_noted(self):
        recipes = [
            {"method": method, "epochs": epochs}
            for method in ("csra", "gap")
            for epochs in (3, 9)
        ]
        named = differing.settings(recipes)
        self.assertEqual(differing.between_methods(recipes, named), [])

    def test_one_run_by_two(self):
        card = {"commit": "b", "earlier_starts": [{"commit": "a"}]}
        self.assertEqual(
            differing.makers([card]), ["commit differs: a, then b (1 run)"]
        )

    def test_versions_and_devices(self):
        cards = [
            {"commit": "a", "replicas": 1, "versions": {"keras": "3.15"}},
            {"commit": "a", "replicas": 2, "versions": {"keras": "3.16"}},
            {"commit": "a", "replicas": 2},
            # Resumed with other code.
            {
                **{"commit": "b", "replicas": 2},
                "earlier_starts": [{"commit": "a", "replicas": 2}],
            },
        ]
        self.assertEqual(
            differing.makers(cards),
            [
                "commit differs: a (3 runs); a, then b (1 run)",
                "replicas differs: 1 (1 run); 2 (3 runs)",
                "keras differs: 3.15 (1 run); 3.16 (1 run); None (2 runs)",
            ],
        )
