"""The `memfd` command."""
def main():
    return 0
