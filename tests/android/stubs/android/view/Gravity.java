package android.view;

public class Gravity {
    public static final int END = 0x00800005;
}
