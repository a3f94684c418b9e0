"""The edits that give back MuJoCo 2.0's mechanics, on small models whose answers are known."""

import mujoco
import numpy as np
import pytest

from iql_fast.environments import physics
from iql_fast.support.errors import UserError

SHIPPED = {
    "hopper": [3.5343, 3.9270, 2.7143, 5.0894],  # as listed for Hopper-v2
    "walker2d": [3.5343, 3.9270, 2.7143, 2.9405, 3.9270, 2.7143, 2.9405],
    "ant": [0.327249, *([0.036477, 0.036477, 0.064911] * 4)],
}


def compiled(bodies, compiler=""):
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><compiler {compiler}/><worldbody>{bodies}</worldbody></mujoco>"
    )


def with_version(monkeypatch, version):
    monkeypatch.setattr(mujoco, "__version__", version)


# --- Versions


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.11.0", (3, 11, 0)),
        ("3.5", (3, 5, 0)),
        ("3.3.8.dev12", (3, 3, 8)),
        ("4.1.0rc2", (4, 1, 0)),
    ],
)
def test_versions_are_integers(monkeypatch, text, numbers):
    with_version(monkeypatch, text)
    assert physics.mujoco_version() == numbers


@pytest.mark.parametrize("version", ["3.2.3", "3.2.6", "3.5.0", "3.11.0", "3.12.0"])
def test_tried_versions_run_without_a_note(monkeypatch, version):
    with_version(monkeypatch, version)
    assert physics.require_mujoco() is None


def test_an_untried_version_runs_with_a_note(monkeypatch):
    with_version(monkeypatch, "4.0.1")
    assert "4.0.1 is newer than" in physics.require_mujoco()


@pytest.mark.parametrize("version", ["4.0.0", "3.2.2", "2.3.7"])
def test_wrong_versions_are_refused(monkeypatch, version):
    with_version(monkeypatch, version)
    with pytest.raises(UserError, match=r"pip install 'mujoco>=3\.2\.3,!=4\.0\.0'"):
        physics.require_mujoco()


# --- Margins and colliders


@pytest.mark.parametrize(("version", "share"), [("3.4.0", 1.0), ("3.5.0", 0.5), ("3.11.0", 0.5)])
def test_margins_are_halved_where_they_are_summed(monkeypatch, version, share):
    model = compiled(
        '<geom size="1" margin="0.004"/><geom size="1"/><geom size="1" margin="0.002" gap="0.001"/>'
    )
    margins = model.geom_margin.copy()
    with_version(monkeypatch, version)
    physics.restore_margins(model, [0, 2])
    np.testing.assert_allclose(model.geom_margin, share * margins)
    np.testing.assert_allclose(model.geom_gap[2], share * 0.001)


def test_a_pair_margin_is_shared_by_geoms_without_one(monkeypatch):
    model = compiled('<geom size="1" margin="0.004"/><geom size="1"/><geom size="1"/>')
    with_version(monkeypatch, "3.11.0")
    physics.restore_margins(model, np.array([True, True, False]), pair=0.004)
    np.testing.assert_allclose(model.geom_margin, [0.002, 0.002, 0.0])


def test_two_equal_margins_meet_at_that_margin():
    """In whatever MuJoCo is installed."""
    falling = '<body pos="0 0 1.003"><freejoint/><geom size="1" margin="0.004"/></body>'
    model = compiled(f'<geom type="plane" size="1 1 1" margin="0.004"/>{falling}')
    physics.restore_margins(model)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert [contact.includemargin for contact in data.contact] == pytest.approx([0.004])


def test_colliders_of_the_installed_version():
    model = compiled('<geom size="1"/>')
    physics.restore_colliders(model)
    flags = 0
    if physics.mujoco_version() >= (3, 3, 0):
        flags |= int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD)
    if physics.mujoco_version() >= (3, 8, 0):
        flags |= int(mujoco.mjtDisableBit.mjDSBL_MULTICCD)
    assert model.opt.disableflags == flags


# --- Capsules


@pytest.mark.parametrize("robot", SHIPPED)
def test_masses_of_the_robots(robot):
    model = physics.load(physics.assets("gymnasium") / f"{robot}.xml")
    physics.restore_capsules(model)
    np.testing.assert_allclose(model.body_mass[1:], SHIPPED[robot], atol=5e-5)
    assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum())  # what follows, too
    if robot == "ant":
        assert model.body_mass.sum() == pytest.approx(0.878710, abs=1e-6)


def test_half_cheetah_keeps_its_total_mass():
    model = physics.load(physics.assets("gymnasium") / "half_cheetah.xml")
    assert model.body_mass[1] == pytest.approx(6.2502, abs=1e-4)
    physics.restore_capsules(model, total_mass=14.0)
    assert model.body_mass[1] == pytest.approx(6.3603, abs=1e-4)
    assert model.body_mass.sum() == pytest.approx(14.0)


def test_loading_half_cheetah_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    physics.load(physics.assets("gymnasium") / "half_cheetah.xml")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_capsule_becomes_the_cylinder_of_mujoco_2():
    """Alone, turned, away from the body's frame: what a cylinder of length 2h + r compiles to."""
    place = 'pos="0.1 -0.2 0.3" euler="20 40 60"'
    body = '<body><freejoint/><geom type="{}" size="0.05 {}" {}/></body>'
    model = compiled(body.format("capsule", 0.2, place))
    cylinder = compiled(body.format("cylinder", 0.225, place))
    physics.restore_capsules(model)
    for field in ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_invweight0"):
        np.testing.assert_allclose(
            getattr(model, field), getattr(cylinder, field), rtol=1e-12, atol=1e-15
        )


@pytest.mark.parametrize(
    "others",
    [
        '<geom type="sphere" size="0.1" pos="0.3 0 0.1"/>',
        '<geom type="box" size="0.1 0.2 0.05" pos="0 0.2 0.1" euler="10 20 30"/>',
        '<geom type="ellipsoid" size="0.1 0.2 0.15" pos="0.2 0 0" euler="50 0 10"/>',
        '<geom type="cylinder" size="0.1 0.2" pos="0.2 0.1 0" euler="0 30 0"/>',
        "",
    ],
)
def test_a_body_of_several_geoms(others):
    """Two capsules beside other geoms: mass, centre and inertia of the same with cylinders."""
    body = (
        '<body><freejoint/><geom type="{0}" size="0.05 {1}" pos="0 0 0.4" euler="0 90 0"/>'
        '<geom type="{0}" size="0.05 {2}" pos="0.1 0.2 0" euler="30 0 45"/>' + others + "</body>"
    )
    model = compiled(body.format("capsule", 0.2, 0.3))
    cylinders = compiled(body.format("cylinder", 0.225, 0.325))
    physics.restore_capsules(model)
    for field in ("body_mass", "body_ipos", "body_inertia", "dof_invweight0"):
        np.testing.assert_allclose(
            getattr(model, field), getattr(cylinders, field), rtol=1e-9, atol=1e-12
        )
    ours, theirs = (mujoco.MjData(each) for each in (model, cylinders))
    for each, data in ((model, ours), (cylinders, theirs)):
        data.qvel[:] = [0.1, 0.2, 0.3, 1.0, -2.0, 3.0]
        mujoco.mj_step(each, data, nstep=50)
    np.testing.assert_allclose(ours.qpos, theirs.qpos, atol=1e-10)


def test_other_bodies_are_left_alone():
    bodies = (
        '<body><freejoint/><geom size="0.1"/></body>'
        '<body pos="1 0 0"><freejoint/><geom type="capsule" size="0.1 0.2"/></body>'
    )
    model = compiled(bodies)
    before = model.body_mass[1], model.body_inertia[1].copy()
    physics.restore_capsules(model)
    assert model.body_mass[1] == before[0]
    np.testing.assert_array_equal(model.body_inertia[1], before[1])


def test_inertia_that_is_not_the_geoms_is_refused():
    inertial = '<inertial pos="0 0 0" mass="1" diaginertia="0.1 0.1 0.1"/>'
    model = compiled(
        f'<body name="leg"><freejoint/>{inertial}<geom type="capsule" size=".1 .2"/></body>'
    )
    with pytest.raises(UserError, match="The inertia of the body leg does not follow"):
        physics.restore_capsules(model)


# --- Quaternions, files, names


def test_quaternion_is_normalised_in_place():
    qpos = np.array([5.0, 3.0, 0.0, 4.0, 0.0, 7.0])
    physics.normalise_quaternion(qpos, 1)
    np.testing.assert_allclose(qpos, [5.0, 0.6, 0.0, 0.8, 0.0, 7.0])


def test_a_model_that_is_another_is_refused():
    model = compiled('<body name="torso"><freejoint/><geom size="0.1"/></body>')
    with pytest.raises(UserError) as caught:
        physics.require_model(model, "ant.xml", 15, 8, {"torso": 1.0, "tail": 2.0}, total_mass=3.0)
    message = str(caught.value)
    for part in (
        "ant.xml is a model file that is not the one expected",
        "nq 7 and nu 0",
        "no body",
    ):
        assert part in message
    assert "torso weighs 4.18879 kg, for 1" in message
    assert "its bodies weigh 4.18879 kg, for 3" in message


def test_a_missing_package_names_the_command(monkeypatch):
    physics.assets.cache_clear()
    monkeypatch.setattr(physics.importlib.util, "find_spec", lambda name: None)
    try:
        with pytest.raises(UserError, match="pip install gymnasium-robotics"):
            physics.assets("gymnasium_robotics")
    finally:
        physics.assets.cache_clear()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot load .*none\.xml"):
        physics.load(tmp_path / "none.xml")


def test_physics_of_another_name_is_refused():
    assert physics.restores("d4rl")
    assert not physics.restores("gymnasium")
    with pytest.raises(UserError, match="one of d4rl, gymnasium"):
        physics.restores("mujoco")
