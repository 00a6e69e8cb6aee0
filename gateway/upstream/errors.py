"""What goes wrong between the gateway and an instance, told apart by what is known of the request afterwards."""


class UpstreamError(Exception):
    """No whole answer came from an instance."""


class CannotConnect(UpstreamError):
    """There is no connection; nothing was sent."""


class Closed(UpstreamError):
    """The instance ended the connection before the first byte of an answer. Whether it did what was asked is not known."""


class BrokenOff(UpstreamError):
    """The connection ended in the middle of an answer."""


class BadAnswer(UpstreamError):
    """What came is no HTTP answer that can be passed on."""
