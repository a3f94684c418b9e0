"""What every other part stands on: errors, files, command lines, output, the native extension."""
