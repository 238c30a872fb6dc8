"""The part that runs inside the measured CLI: encode, queue, hand over. Never httpx, ssl or asyncio."""
