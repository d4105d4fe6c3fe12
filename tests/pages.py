"""What tests of pages in a browser share, beside the fixture `browser`."""

SIZES = {"desk": (1280, 720), "phone": (390, 844)}  # of the window
PRESS, RELEASE = (
    f"dispatchEvent(new KeyboardEvent('{kind}', {{ key: arguments[0] }}))" for kind in ("keydown", "keyup")
)  # scripts, of a key
