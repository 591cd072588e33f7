"""Print the table of all effects."""

from mixprint.chains.registry import table

if __name__ == "__main__":
    print(table())
