"""The one base class of every error that the user, not the programmer, can mend."""


class StreamPETRError(Exception):
    """A wrong input, file or setting.

    The message names the thing, its value and the way out. The command line prints it as one line and exits
    with status 2; modules derive their own class from it.
    """
