class Shortcut:
    def strongest(self, k):
        return ["L0H1", "L1H2", "L4H0"]


def find_shortcut(*a, **k):
    return Shortcut()
