"""The MeetStream wire as values: no I/O, no clock, no logging, never imports trio."""
