from kombu.entity import Exchange as Exchange
from kombu.entity import Queue as Queue
