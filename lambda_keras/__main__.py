"""`python -m lambda_keras` is the same program as `lambda-keras`."""

from lambda_keras.cli import main

if __name__ == "__main__":
    main()
