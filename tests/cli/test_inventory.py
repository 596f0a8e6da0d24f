import pytest


class TestList:
    @pytest.mark.parametrize(
        ("what", "line"),
        [
            ("methods", "ard                Adversarially Robust Distillation (Goldblum et al., AAAI 2020)."),
            ("attacks", "pgd                Steepest ascent with projection (Madry et al. 2018)"),
            ("attacks", "standard           Suite: AutoAttack's"),
            ("models", "resnet18           ResNet("),
            ("datasets", "digits             The 1,797 handwritten digits that scikit-learn carries"),
            ("recipes", "digits/ard"),
        ],
    )
    def test_every_room(self, run_cli, what, line):
        code, out, err = run_cli("list", what)
        assert (code, err) == (0, "")
        assert any(one.startswith(line) for one in out.splitlines())

    def test_an_unknown_room_is_one_line(self, refused):
        assert refused("list", "method") == "there is no list of 'method' (did you mean 'methods'?)"
