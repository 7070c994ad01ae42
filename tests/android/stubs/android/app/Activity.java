package android.app;

import android.content.Context;
import android.content.Intent;
import android.os.Bundle;
import android.view.Menu;
import android.view.MenuInflater;
import android.view.MenuItem;
import android.view.View;

public class Activity extends Context {
    public static final int RESULT_OK = -1;

    public final native Application getApplication();

    public native MenuInflater getMenuInflater();

    public native void setContentView(int layout);

    public native <T extends View> T findViewById(int id);

    public native void startActivityForResult(Intent intent, int requestCode);

    protected native void onCreate(Bundle savedInstanceState);

    public native boolean onCreateOptionsMenu(Menu menu);

    public native boolean onOptionsItemSelected(MenuItem item);

    protected native void onActivityResult(int requestCode, int resultCode, Intent data);
}
