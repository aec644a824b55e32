#!/bin/sh
# Package scripts start nothing here: services belong to PID 1 (see invoke-rc.d(8)).
exit 101
