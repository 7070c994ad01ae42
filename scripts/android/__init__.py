"""The Android sample, checked without an Android SDK: ``make android-check``."""
