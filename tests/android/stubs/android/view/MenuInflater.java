package android.view;

public class MenuInflater {
    public native void inflate(int menuResource, Menu menu);
}
