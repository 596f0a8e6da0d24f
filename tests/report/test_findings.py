def test_a_run_is_called_as_its_evaluation_says(finding):
    found = finding(run="mine", method="kd")
    assert (found.name, found.method) == ("mine", "kd")
    assert (found.certificate, found.recipe, found.pictures, found.multiply_adds) == (None, None, None, None)
    assert (found.metrics, found.examples, found.classes, found.notes) == ((), (), (), ())
