from contralens.cli import main

main()
