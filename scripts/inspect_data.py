"""Look through a data set: python scripts/inspect_data.py --data.path DIR --size 64 --out page.png"""

from guided_diffusion.commands.inspect_data import main

if __name__ == "__main__":
    main()
