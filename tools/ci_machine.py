"""Names a runner of the hosting service for asv: `python -m tools.ci_machine`.

Every job runs on another machine of another name. Those with the same CPU are taken for one, so
that their figures make a history; each other CPU has one of its own.
"""

import re

from asv.machine import Machine, MachineCollection


def name(info):
    """What machines of this kind are called."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"ci {info['cpu']} {info['num_cpu']} cores").strip("-")


def main():
    """Write asv's file on this machine."""
    info = Machine.get_defaults()
    info["machine"] = name(info)
    MachineCollection.save(info["machine"], info)
    print(info["machine"])


if __name__ == "__main__":
    main()
