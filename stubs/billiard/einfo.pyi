class ExceptionWithTraceback(Exception):
    exc: Exception
